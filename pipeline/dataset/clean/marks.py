"""The rule about calculator marks, which GSM8K's authors wrote into their answers for a calculator to fill in."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

MARK = re.compile(r"<<(?P<sum>[-+*/().,\d\s$%x]{1,120})=(?P<result>[-+.,\d$%\s]{1,40})>>(?P<number>(?=[-$]?\.?\d))?")


def calculator_marks(texts: Texts) -> Finding | None:
    """Marks for a calculator inside the answer: "16 - 3 = <<16-3=13>>13" becomes "16 - 3 = 13".

    No calculator answers them here, so a model would learn to write each number twice. Where no number follows a mark,
    its result takes its place.
    Source: GSM8K (Cobbe et al. 2021, section 3.3). It does not see marks in words, nor the `#### 13` at the end, which
    stays: some evaluations look for it.
    """
    if "<<" not in texts.output:
        return None
    plain = MARK.sub(lambda found: "" if found["number"] is not None else found["result"].strip(), texts.output)
    if plain == texts.output:
        return None
    return Finding("marks for a calculator", texts._replace(output=plain), "output", texts.output.find("<<"))
