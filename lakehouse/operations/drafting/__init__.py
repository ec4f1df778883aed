"""A new topic's files from sample messages, and what would become of messages: without a lake."""
