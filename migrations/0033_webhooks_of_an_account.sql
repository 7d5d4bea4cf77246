-- Serves: list the subscriptions of one account, oldest first, which the former index left to be read whole and sorted.
create index webhooks_account_listing on webhooks (partner_id, account_id, subscription_id);
drop index webhooks_account;
