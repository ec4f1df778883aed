"""A broker's messages become durable segments, the same after every replay."""
