"""The data keys of the streaming company that the library's encoders are written for."""

from schemas.data_keys import context_variable, global_element, item, service_element

PROFILE_ID = context_variable("profile_id", "int64")
COUNTRY = context_variable("country", "string")
DEVICE = context_variable("device", "string")
QUERY = context_variable("query", "string")
SEED_ID = context_variable("seed_id", "int64")  # the video whose similar ones are shown
VIDEO_ID = item("video_id", "int64")
VIEWING_HISTORY = service_element(
    "viewing_history", "list<struct<video_id: int64, minutes: float, watched_at: timestamp[us, UTC]>>"
)
MY_LIST = service_element("my_list", "list<struct<video_id: int64, added_at: timestamp[us, UTC]>>")
PREDICTED_RATINGS = service_element("predicted_ratings", "list<struct<video_id: int64, rating: float>>")
SEARCH_RESULTS = service_element("search_results", "list<struct<video_id: int64, score: float>>")
SIMILAR_VIDEOS = service_element("similar_videos", "list<struct<video_id: int64, score: float>>")
VIDEOS = global_element(
    "videos",
    "struct<video_id: int64, title: string, genres: list<string>, release_year: int32, runtime_minutes: float, "
    "popularity: float>",
)
