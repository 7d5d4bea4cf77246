-- What each node can open: a fingerprint for every key of its ring, the one that encrypts first. It says nothing about the key. Who changes the
-- keys of what is stored looks here first, so that nothing is sealed with a key that a node at work does not have. Null: a node of a version
-- that did not tell.
alter table nodes add column ring text[] check (cardinality(ring) between 1 and 100 and length(array_to_string(ring, ' ')) <= 8192);
