-- Since when everything that was sent to a subscription has failed; null while it is well. Written when that changes, not with every
-- attempt. A callback that fails for days on end is disabled, visibly.
alter table subscriptions add column failing_since timestamptz;
