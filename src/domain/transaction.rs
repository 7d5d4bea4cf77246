//! The transaction that a redirect session is to bring about: how much, in what, and which way the money goes.

use super::currency::Currency;

/// In units of the currency.
pub const AMOUNT_MAX: f64 = 10_000.0;
/// In characters.
pub const EXTERNAL_REFERENCE_CHARS_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    pub currency: Currency,
    pub amount: Amount,
    pub flow: Flow,
    pub external_reference: Option<ExternalReference>,
}

/// More than nothing and at most [`AMOUNT_MAX`]. A binary fraction is exact enough: it is echoed, never added up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount(f64);

impl Amount {
    pub fn parse(units: f64) -> Result<Self, &'static str> {
        if units > 0.0 && units <= AMOUNT_MAX {
            Ok(Self(units))
        } else {
            Err("must be greater than 0 and at most 10000")
        }
    }

    pub fn units(self) -> f64 {
        self.0
    }
}

/// Which way the money goes, said in one of two vocabularies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Direction(Direction),
    Kind(TransactionKind),
}

/// Words of a published vocabulary: an enum whose variants are written as they are named.
macro_rules! vocabulary {
    ($(#[$about:meta])* $name:ident: $($word:ident)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($word),* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$word),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),* }
            }

            /// Errors: the words that it could have been.
            pub fn parse(text: &str) -> Result<Self, String> {
                let known = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                known.ok_or_else(|| format!("must be one of {}", [$(stringify!($word)),*].join(", ")))
            }
        }
    };
}

vocabulary! {
    Direction: MerchantToCustomer CustomerToMerchant
}

vocabulary! {
    /// The `type` of a transaction.
    TransactionKind:
        PassthroughDeposit PassthroughWithdrawal CustomerToMerchantTransfer CustomerToMerchantPassthrough MerchantToCustomerTransfer
        MerchantToCustomerPassthrough
}

/// The merchant's own name for the transaction. May be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalReference(String);

impl ExternalReference {
    pub fn parse(text: String) -> Result<Self, &'static str> {
        if text.chars().count() > EXTERNAL_REFERENCE_CHARS_MAX {
            Err("must be at most 255 characters long")
        } else if text.chars().any(|c| c.is_ascii_control()) {
            Err("must not contain control characters")
        } else {
            Ok(Self(text))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_more_than_nothing_and_at_most_ten_thousand() {
        for good in [0.01, 1.0, 19.99, 9_999.99, 10_000.0, f64::MIN_POSITIVE] {
            assert_eq!(Amount::parse(good).map(Amount::units), Ok(good));
        }
        for bad in [0.0, -0.0, -1.0, 10_000.01, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert!(Amount::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_vocabularies_are_the_published_ones() {
        assert_eq!(Direction::parse("CustomerToMerchant"), Ok(Direction::CustomerToMerchant));
        assert_eq!(TransactionKind::parse("PassthroughDeposit"), Ok(TransactionKind::PassthroughDeposit));
        assert_eq!((Direction::ALL.len(), TransactionKind::ALL.len()), (2, 6));
        let complaint = Direction::parse("customerToMerchant").unwrap_err();
        assert_eq!(complaint, "must be one of MerchantToCustomer, CustomerToMerchant");
        assert!(TransactionKind::parse("MerchantToCustomer").is_err(), "a word of the other vocabulary");
    }

    #[test]
    fn a_reference_is_bounded_and_printable() {
        let longest = "é".repeat(EXTERNAL_REFERENCE_CHARS_MAX);
        for good in ["", "order-1232", "Bestellung Nr. 7", longest.as_str()] {
            assert_eq!(ExternalReference::parse(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["a\nb", "\u{1b}[0m", "\u{7f}", &"x".repeat(EXTERNAL_REFERENCE_CHARS_MAX + 1)] {
            assert!(ExternalReference::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
