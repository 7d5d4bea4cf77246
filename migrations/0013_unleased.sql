-- One index less for every delivery that succeeds at once. Whoever looks for a subscription's deliveries (to hold, resume in their order,
-- cancel or count them) means those that nobody is sending at this moment; a delivery that is born leased and then finished never is one.
create index queue_unleased on queue (subscription_id, due_at, delivery_id) where lease_owner is null;
drop index queue_subscription;
