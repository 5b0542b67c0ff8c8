"""Limits that no option changes. Those that options change are in `settings`; docs/serve.md names them all."""

HEAD_BYTES = 16 << 10  # of a request's head, and of the frame of a chunk
CHUNK_BYTES = 16  # of a body's chunks on average,
FREE_CHUNKS = 1000  # after these
REST_BYTES = 64 << 20  # of a body's rest that is read and dropped once the request was answered

BOUNDARY_LENGTH = 70  # characters that part a form (RFC 2046)
PART_HEADERS = 8  # of a part of a form
PART_HEADER_BYTES = 4 << 10  # of each of them
NAME_LENGTH = 1024  # characters of a file name
PREFIX_LENGTH = 256  # characters put before the ids of images
NOTE_LENGTH = 1000  # characters of the note of feedback

MOST_IDS = 10_000  # of a request
TENSOR_RANK = 8
TENSOR_ID_LENGTH = 1000  # characters of the id of an inference
PICTURES = 2  # of queries that are cut into tiles at a time: each is in memory as a whole
PARSERS = 2  # bodies of inferences that are parsed at a time: objects take more memory than their text

LABEL_TASKS = 1000  # of a prediction for Label Studio
CONFIG_BYTES = 256 << 10  # of its labeling config
FETCHES = 4  # images fetched from it at a time, and in memory until they are judged
FETCH_SECONDS = 20.0  # for an image
ANNOTATIONS_WAITING = 1000  # that have come from it and are not looked at

PAGE_IMAGES = 1000  # of a page of a list
PAGE_SNAPSHOTS = 1000  # that the description of a gallery tells, the newest
AUDIT_IMAGES = 200  # of an audit that are told
AUDITS = 1  # at a time: each searches for a thousand images
DRIFT_IMAGES = 100  # of each gallery, judged last, whose drift is told
OVERLAY_EDGE = 2048  # pixels of the longer edge of pictures that are drawn
ERRORS = 10  # of a request that are told
DETAIL_LENGTH = 1000  # characters of each
REQUEST_ID_LENGTH = 64  # characters of an id that a client chooses for its request

NOTICES = 100  # lines kept of a job
NOTICE_LENGTH = 10_000  # characters kept of a line
STOP_SECONDS = 10.0  # that a stop waits for the step of a running job, and for a batch
END_SECONDS = 25.0  # after which, and the time for requests, a stop ends the process
STATISTICS = 1000  # versions of models whose statistics are kept
