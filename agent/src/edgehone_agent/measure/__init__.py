"""Measuring a model file on the machine that will run it: latency, memory and cold start, size.

latency    interleaved timing of loaded sessions, with intervals, noise, and a refusal to rank inside the noise
memory     peak memory and cold start of a fresh process, through `probe`
size       bytes on disk and compressed, sha256
machine    where figures were taken

For others, over the network: `service` takes files, `jobs` queues them, `isolated` measures each request in processes
of its own (`child`), and `tokens` reads who may send.
"""
