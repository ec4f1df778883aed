"""What each column of bronze, silver and the ledger means; a test holds the names against the schemas."""

MEANING = {
    "message_id": "The broker's id of the message. The same event can come in several messages.",
    "publish_time": "When the broker took the message.",
    "attributes": "The message's attributes as delivered.",
    "payload": "The message's bytes as delivered. Sealing never reads it.",
    "ordering_key": "The message's ordering key; null where it has none, and for what an older release delivered.",
    "event_id": "What is the same in every delivery of one event, from where `event_id` of the topic points.",
    "event_time": "When the event happened, from where `event_time` of the topic points.",
    "event": "The declared fields, decoded once, here. Null where the message was rejected.",
    "reject_reason": "Why the message has no place in any hour; null for an event.",
    "epoch": "The micro-batch in which the message was pulled.",
    "slot": "The share of the epoch in which it was pulled.",
    "position": "Its place in that share, from 0.",
    "hour": "The bucket: the hour in which the event is delivered, such as `2026-11-23T05`. Partition column; null for "
    "what was rejected (bronze) and for what concerns the whole topic (ledger).",
    "event_hour": "The hour of the event's own time. Where it is before `hour` the row is skewed.",
    "state": "What happened; see below.",
    "at": "When it was recorded. Each row is later than the one before it, also where machines' clocks differ.",
    "by": "`<stage>/<release>/<run>`, or the person who acted.",
    "details": "JSON with the keys below. Unknown keys are ignored, so an older release reads a newer ledger.",
}
