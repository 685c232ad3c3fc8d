"""Features from the list of what the profile wants to watch."""

from __future__ import annotations

from typing import Any

from encoders import feature_encoder
from encoders.library.keys import MY_LIST

DAY = 86_400_000_000  # microseconds


@feature_encoder(data=[MY_LIST], features=["in_my_list", "days_in_my_list"])
def listed(context: Any, items: Any, data: Any, out: Any) -> None:
    """Whether each candidate is on the list (NaN: the list is not known), and for how many days (NaN: it is not)."""
    wanted = data.my_list
    for i in range(len(items.video_id)):
        if wanted.present:
            out.in_my_list[i] = 0.0
        for j in range(len(wanted.video_id)):
            if wanted.video_id[j] == items.video_id[i] and wanted.added_at[j] <= context.time:
                out.in_my_list[i] = 1.0
                out.days_in_my_list[i] = (context.time - wanted.added_at[j]) / DAY
                break
