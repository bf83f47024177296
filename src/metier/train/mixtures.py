"""The data mixtures that OpenMoE was pretrained on: sampling weights in percent (Xue et al. 2024, table 1).

The corpora themselves are not here. The names say which source of a job stands for which corpus; its weight goes into
``weight`` of that source's ``[[data.text]]``, or of its `metier.train.packing.Corpus`.
"""

OPENMOE_MIXTURES: dict[str, dict[str, float]] = {
    "openmoe-v1": {
        "RedPajama C4": 7.5,
        "RedPajama Wikipedia": 2.25,
        "RedPajama StackExchange": 1.0,
        "RedPajama ArXiv": 1.25,
        "RedPajama Books": 2.25,
        "RedPajama GitHub": 2.25,
        "RedPajama CommonCrawl": 33.5,
        "The Stack dedup": 50.0,
    },
    "openmoe-v2": {
        "RedPajama C4": 15.0,
        "RedPajama Wikipedia": 6.5,
        "RedPajama StackExchange": 2.5,
        "RedPajama ArXiv": 4.5,
        "RedPajama Books": 6.5,
        "RedPajama GitHub": 5.0,
        "RedPajama CommonCrawl": 43.5,
        "Wikipedia-en 20190301": 6.5,
        "The Stack dedup": 10.0,
    },
    "openmoe-v3": {
        "RedPajama C4": 15.0,
        "RedPajama Wikipedia": 4.5,
        "RedPajama StackExchange": 1.0,
        "RedPajama ArXiv": 4.5,
        "RedPajama Books": 4.5,
        "RedPajama GitHub": 5.0,
        "RedPajama CommonCrawl": 33.0,
        "Wikipedia-en 20190301": 2.5,
        "The Stack dedup": 30.0,
    },
}
"""v1: base, and the 8B to 780 B tokens. v2: the 8B from there. v3: the 34B."""
