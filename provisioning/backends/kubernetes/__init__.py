"""Engine clusters as pods of a Kubernetes cluster; what lies where is in docs/adr/0014.

Reading order: `settings`, `kinds`, `names`; `backend`; then `api` with `connection`, `budget` and `errors`; `fence`;
`charts`, `apply` and `drift`; `holdings`, `data`; `look`, `pods` and `observe`; `watch`, `system`, `inventory`. What an
engine is asked, and how its answers are judged, is in `backends.engine`. Nothing is imported
here: the Kubernetes client's package costs 35 MiB, which only a process with such a region is to pay.
"""
