"""The fields of a verdict, in their order, which every sink delivers."""

VERDICT = ["id", "arrival", "delivered_by", "judged", "gallery", "error", "image", "path", "score", "scores"]
VERDICT += ["threshold", "p_value", "anomalous", "snapshot", "neighbours", "score_map", "heatmap", "mask"]
VERDICT += ["evidence", "regions"]
