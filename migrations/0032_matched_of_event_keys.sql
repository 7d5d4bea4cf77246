-- How many subscriptions the event of a chosen id matched: what a repeat is answered. Where the retention is shorter than the week for which ids
-- are remembered, the event is gone by then. Unknown of ids that were taken before there was this; those ask the event.
alter table event_keys add column matched integer;
