-- What is held comes back oldest first, by the time of the event and not of the row, whose ids are random within a millisecond; and of each
-- subscription only so much at a time, which is counted by subscription.
drop index queue_held;
create index queue_held on queue (subscription_id, event_id) where due_at = 'infinity' and not waits;
drop index queue_draining;
create index queue_draining on queue (subscription_id) where draining and due_at < 'infinity';
