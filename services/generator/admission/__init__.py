"""Admission: how many answers run at once, who is next, who is told to come back, and what tenants may spend.

queue.py      a fair queue between tenants; a data structure
pace.py       how long answers take, measured
work.py       what a request will cost, estimated
gate.py       places, turns, refusals
quota.py      tokens a minute and budgets, shared by replicas or not
admitted.py   all that in front of a model, as a model
"""
