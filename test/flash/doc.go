// Package flash measures a flash sale: the shop's storefront behind the gateway, with a
// ScalePolicy, when the load rises from 50 to 5,000 requests a second within an instant;
// the same with a fixed number of replicas; and how long the first request takes when
// there is no replica. `make bench-flash` runs it.
//
// The load generator runs on the same machine. Arrivals do not wait for answers, and the
// time of an answer counts from when its request was due.
//
//	FLASH_RUNTIMES  drivers to measure (default "gantry runc")
//	FLASH_RATE      requests a second in the sale (default 5000)
//	FLASH_SECONDS   how long it lasts (default 20)
//	FLASH_WAKES     how often the shop is woken from zero (default 20)
//
// Only tests import this package.
package flash
