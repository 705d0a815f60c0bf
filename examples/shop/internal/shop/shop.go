// Package shop holds the words that the services exchange.
package shop

import (
	"fmt"
	"time"
)

// Cents is an amount of money in euro cents.
type Cents int64

func (c Cents) String() string { return fmt.Sprintf("€ %d.%02d", c/100, c%100) }

// Product is one entry of the catalogue.
type Product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Text  string `json:"text"`
	Price Cents  `json:"price"`
	Icon  string `json:"icon"`
	Hue   int    `json:"hue"` // of its card, 0 to 359
}

// Item is a product in a cart or an order.
type Item struct {
	Product  string `json:"product"`
	Name     string `json:"name,omitempty"`
	Price    Cents  `json:"price,omitempty"`
	Quantity int    `json:"quantity"`
}

// NewOrder asks for an order. The key of the request makes it happen once.
type NewOrder struct {
	Customer string `json:"customer"`
	Items    []Item `json:"items"`
}

// Order is an order that was placed.
type Order struct {
	ID       string    `json:"id"`
	Customer string    `json:"customer"`
	Items    []Item    `json:"items"`
	Total    Cents     `json:"total"`
	Payment  string    `json:"payment"` // receipt of the payment service
	Placed   time.Time `json:"placed"`
}

// Payment asks for money; the key of the request makes it happen once.
type Payment struct {
	Customer string `json:"customer"`
	Amount   Cents  `json:"amount"`
}

// Receipt confirms a payment.
type Receipt struct {
	ID     string `json:"id"`
	Amount Cents  `json:"amount"`
}
