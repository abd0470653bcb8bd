"""Answers over HTTP, a Unix socket and MQTT: the Open Inference Protocol in front of a `Host`.

    from edgehone_agent.serve.app import serve

    stop = asyncio.Event()
    await serve(host, ["127.0.0.1:8000", "unix:/run/edgehone/agent.sock"], stop=stop)

`host` holds the contract, `oip` the protocol's bytes, `routes` what each path answers, `lanes` where a model runs,
`http` the connections, `listen` and `tls` the sockets, `app` the life of it all. `mqtt` stands beside them. This module
imports neither asyncio nor the parser: a program that only asks its own models needs no server.
"""

from __future__ import annotations

from edgehone_agent.serve.host import Answer, Host, Metric
from edgehone_agent.serve.limits import Limits

__all__ = ["Answer", "Host", "Limits", "Metric"]
