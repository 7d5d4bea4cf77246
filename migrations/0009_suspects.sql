-- A delivery whose sender died twice in a row may be what kills it: it is claimed by itself, when no other such is under way.
-- Serves: claim the next of them. Next to nothing is in it, since the first outcome that is recorded forgets the crashes.
create index queue_crashed on queue (due_at) where crashes > 0;
