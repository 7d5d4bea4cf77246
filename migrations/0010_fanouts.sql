-- Events that match very many subscriptions. Their rows do not all go into the queue with the event: that would hold up everybody else's
-- commits, and make them all due at one moment. What commits with the event is whom it matched, in chunks of up to 1,000. A chunk is turned
-- into queue rows by a statement of its own, which deletes it: as long as it is there, none of it is in the queue, and once it is not, all of
-- it is. So it needs neither a lease nor a cursor, and a crash at any moment loses nothing and repeats nothing.
--
-- due_from is when the first of the chunk is due; the others follow, 50 microseconds apart.
create table fanouts (
    partner_id     uuid not null,
    event_id       uuid not null,
    chunk          integer not null check (chunk >= 0),
    subscriptions  uuid[] not null check (cardinality(subscriptions) between 1 and 1000),
    due_from       timestamptz not null,
    primary key (partner_id, event_id, chunk)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Serves: take the next chunk.
create index fanouts_due_from on fanouts (due_from);
