-- Order, batches and draining: what the queue must know so that deliveries with an ordering key arrive one after the other, so that those of
-- a callback that takes batches leave in batches, and so that what was held comes back without pushing everything else aside.

-- Ordering keys. The deliveries of one subscription with the same key stand in a line: the first of them is out, the others wait. line is a
-- 64-bit digest of the key, which keeps the queue narrow; two keys that share one would stand in one line, which costs speed and nothing else.
-- place is the number that a delivery was given when it got in line. waits says that somebody stands before it; such a row is nobody's to
-- claim by itself, so it is never due, unless it has gone into a batch together with those before it.
--
-- Batches. batched rows leave by a claim of their own, which gathers those that have no batch_id yet and gives them one. From then on they
-- are sent together or not at all, under the batch's id.
--
-- draining marks what was held until its subscription was active again.
alter table queue
    add column line      bigint,
    add column place     bigint,
    add column waits     boolean not null default false,
    add column batched   boolean not null default false,
    add column batch_id  uuid,
    add column draining  boolean not null default false,
    add check ((line is null) = (place is null)),
    add check (not waits or line is not null),
    add check (not waits or batch_id is not null or due_at = 'infinity' and lease_owner is null),
    add check (batch_id is null or batched);

-- Who is first in line: one at most, which is what order means.
create unique index queue_first_in_line on queue (partner_id, subscription_id, line) where line is not null and not waits;
-- Serves: find who is next in line.
create index queue_line on queue (partner_id, subscription_id, line, place) where line is not null;

-- Serves: claim what is due and does not leave in batches. What is gathered for batches may be a great deal, and is not waded through.
drop index queue_due_at;
create index queue_due_at on queue (due_at) where not batched;
-- Serves: claim the batches that are due.
create index queue_batches_due on queue (due_at) where batch_id is not null and not waits;
-- Serves: find the other deliveries of a batch.
create index queue_batch on queue (batch_id) where batch_id is not null;
-- Serves: find the subscriptions that have something to gather, and gather the oldest of it.
create index queue_to_gather on queue (subscription_id, due_at, event_id) where batched and batch_id is null and not waits;

-- Serves: find the subscriptions for which something is held, and make the oldest of it due.
create index queue_held on queue (subscription_id, delivery_id) where due_at = 'infinity' and not waits;
-- Serves: see how much of what was held is still on its way.
create index queue_draining on queue (due_at) where draining and due_at < 'infinity';

-- A line that somebody stands in. Whoever gets in line or leaves it changes this row, and so one after the other: its numbers are true at any
-- moment for whoever holds it, which what is seen of the queue itself is not. The row goes with the last of the line.
-- Everybody who locks several lines locks them in the order of (line, subscription_id).
create table ordering_lines (
    partner_id       uuid not null,
    subscription_id  uuid not null,
    line             bigint not null,
    -- The highest place that was given.
    last_place       bigint not null check (last_place > 0),
    -- How many stand in it.
    unfinished       integer not null check (unfinished > 0),
    primary key (partner_id, subscription_id, line)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, fillfactor = 85);

-- Only notifications are published in batches; a surface that sends one event at a time must not be given two.
alter table callbacks add check (batch_size = 1 or surface = 'notifications');
