// Sphinx's scores, but Start and the Reference come first among equals, and Evidence last.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) =>
    score +
    (docname === "start" ? 2 : 0) +
    (docname.startsWith("reference/") ? 1 : 0) -
    (docname === "evidence" ? 10 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
