"""Graphs: each node and edge once, and in text what each is made from."""

from schemas.graphs import Graph, Node


def test_a_graph_is_drawn_once_for_each_node_and_edge():
    columns = [
        ("state", [Node("h", "history"), Node("v", "videos")]),
        ("encoders", [Node("e", "minutes", kind="code")]),
        ("features", [Node("f", "minutes_watched"), Node("l", "labels")]),
        ("model", [Node("m", "trees")]),
    ]
    edges = [("h", "e"), ("v", "e"), ("e", "f"), ("f", "m"), ("l", "m"), ("x", "e")]
    graph = Graph(columns, edges)
    assert graph.text() == "history, videos → minutes → minutes_watched\nminutes_watched, labels → trees"
    assert graph.html().count("<g ") == 6
    assert graph.html().count("<path ") == 5  # none from what is not there
