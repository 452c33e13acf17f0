"""The exact cache: the same request of the same tenant is answered from what was said before, word for word.

    Cached (a Model around a Model) ── flights.py   equal requests at once: one run, all read it
                                    └─ keeping.py   kept answers, in a store that may fail: stores/{memory,redis}.py

*Exact* means: every part of a request that can change its answer is in the key (keys.py), the tenant first. Nothing
is compared by meaning. A cache is used where the operator has set one (`WEFT_GENERATOR__CACHE`) and the request
allows it (`allow_cached`).

What is kept is an answer that came to its end: STOP, LENGTH (a limit is part of the request) and ABSTAINED (so are
the passages that held no answer). Never kept:

- a part of an answer, whether it broke off or all who read it went away;
- an answer that asks for tools: its call ids are one conversation's, and acting twice is not answering twice;
- sampled answers: with a temperature above 0 and no seed the caller asked for one of many, so such a request is
  neither answered from here nor shared. Where the temperature is left to the model, the caller asked for *an*
  answer: it is kept;
- an answer above `answers.MAX_BYTES`.

A request that resumes an interrupted answer always goes to the model. An answer that a fallback model gave is kept
as the fallback's: the next request tries the first model again.
"""
