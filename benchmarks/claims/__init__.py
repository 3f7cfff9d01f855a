"""Each paper's claim at its smallest setting that is feasible on two CPU cores; `benchmarks/paper_claims.py` runs it.

tasks.py, digits.py   what is learned, with the memoryless loss in closed form
training.py           one run: Spec, seed -> curve;  auxiliary.py  Trinh's losses, supervised
verdict.py            runs -> statements with intervals -> shown, refuted, undecided within budget
table.py              the claims as data;  arms.py  the building blocks of their arms
runs.py               result files, resumption, worker processes;  report.py  the page and the figures
"""
