"""Learning on the node: a small change of the signed model's answers, for this place alone, and only by policy.

Rules:
- Two kinds. "statistics": readings get a gain and an offset, so that they look like validation data again; no labels
  needed. "last-layer": scores get `W e + b` from the embedding e, learnt from labels that came here.
- The signed bytes stay as they are. What was learnt is one small file beside them that names the bundle it belongs to;
  with another bundle it is void, and deleted where the policy no longer asks for it.
- Labels judge: what was learnt against the signed model, on the same readings. What answers worse is dropped, and not
  tried again until the bundle or the policy changes.
- `statistics`, `last_layer`, `verdict` and `kept` are pure; `learner` drives them, off the threads that answer.
"""

from typing import Literal, get_args

Kind = Literal["statistics", "last-layer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
