//! Who takes a partner's events of one type, and how a delivery to them begins.

use super::id::SubscriptionId;
use super::publication::Attributes;

/// The attribute of an event that filters look at.
const CAMPAIGN: &str = "campaignName";

/// A subscription that takes events of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub subscription: SubscriptionId,
    /// Whether its deliveries are held, because it is paused or disabled.
    pub holds: bool,
    /// Whether its deliveries leave in batches.
    pub gathers: bool,
    /// It takes only events of these campaigns, which are sorted; `None` means all.
    pub campaigns: Option<Vec<String>>,
}

impl Route {
    fn takes(&self, attributes: &Attributes) -> bool {
        let Some(campaigns) = &self.campaigns else { return true };
        attributes
            .get(CAMPAIGN)
            .is_some_and(|campaign| campaigns.binary_search_by(|taken| taken.as_str().cmp(campaign)).is_ok())
    }
}

/// All routes of one type of one partner's events, as they were at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// The partner's version of them, under which they hold.
    pub version: i64,
    /// In the order of their subscriptions' ids.
    pub all: Vec<Route>,
}

impl Routes {
    /// Those that an event with these attributes takes.
    pub fn of<'a>(&'a self, attributes: &'a Attributes) -> impl Iterator<Item = &'a Route> {
        self.all.iter().filter(|route| route.takes(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_with_campaigns_takes_events_of_these_and_no_others() {
        let route = |campaigns: Option<&[&str]>| Route {
            subscription: SubscriptionId::new(),
            holds: false,
            gathers: false,
            campaigns: campaigns.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        };
        let all =
            vec![route(None), route(Some(&["autumn", "spring"])), route(Some(&["autumn"])), route(Some(&[]))];
        let routes = Routes { version: 1, all };
        let taken = |attributes: &[(&str, &str)]| {
            let mut all = Attributes::default();
            attributes.iter().for_each(|(name, value)| all.add(name, (*value).to_owned()).unwrap());
            let is_taken = |route: &Route| routes.of(&all).any(|taken| taken == route);
            routes.all.iter().map(is_taken).collect::<Vec<_>>()
        };
        assert_eq!(taken(&[]), [true, false, false, false]);
        assert_eq!(taken(&[("campaignName", "spring")]), [true, true, false, false]);
        assert_eq!(taken(&[("campaignName", "autumn")]), [true, true, true, false]);
        assert_eq!(taken(&[("campaignName", "Autumn")]), [true, false, false, false]);
        assert_eq!(taken(&[("campaign", "autumn")]), [true, false, false, false]);
    }
}
