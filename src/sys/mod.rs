//! What the operating system offers and no library wraps safely. With `buffer`, one of the two
//! rooms where `unsafe` may live.
