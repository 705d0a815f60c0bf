// Command storefront is what customers see of the shop: pages rendered on the
// server, working without JavaScript.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"example.com/shop/internal/service"
	"example.com/shop/internal/shop"
)

// version is set when building: -ldflags "-X main.version=2".
var version = "1"

const (
	cookieName     = "customer"
	cookieLifetime = 30 * 24 * time.Hour
	// patience bounds a page, waiting for restarting services included.
	patience = 14 * time.Second
)

type storefront struct {
	*service.Service
	catalogue, cart, orders *service.Client
	host                    string
}

func main() { service.Main("storefront", setup) }

func setup(_ context.Context, s *service.Service) error {
	f := &storefront{
		Service:   s,
		catalogue: service.NewClient(service.Env("CATALOGUE_URL", "http://catalogue:8080")),
		cart:      service.NewClient(service.Env("CART_URL", "http://cart:8080")),
		orders:    service.NewClient(service.Env("ORDERS_URL", "http://orders:8080")),
		host:      service.Env("HOSTNAME", "storefront"),
	}
	for pattern, page := range map[string]func(context.Context, http.ResponseWriter, *http.Request, string) error{
		"GET /{$}":         f.products,
		"GET /cart":        f.showCart,
		"POST /cart":       f.changeCart,
		"POST /orders":     f.placeOrder,
		"GET /orders":      f.showOrders,
		"GET /orders/{id}": f.showOrder,
	} {
		s.Mux.HandleFunc(pattern, f.page(page))
	}
	s.Mux.HandleFunc("GET /style.css", serveStyle)
	return nil
}

// page gives a handler its customer and turns its error into an answer.
func (f *storefront) page(show func(context.Context, http.ResponseWriter, *http.Request, string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Shop-Version", version)
		w.Header().Set("Cache-Control", "no-store")
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		if err := show(ctx, w, r, customer(w, r)); err != nil {
			f.Fail(w, r, err)
		}
	}
}

// customer tells browsers apart by a random cookie: this shop knows no names.
func customer(w http.ResponseWriter, r *http.Request) string {
	if c, err := r.Cookie(cookieName); err == nil && len(c.Value) == 32 {
		return c.Value
	}
	id := randomID()
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: id, Path: "/", MaxAge: int(cookieLifetime.Seconds()), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	return id
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (f *storefront) products(ctx context.Context, w http.ResponseWriter, r *http.Request, customer string) error {
	var products []shop.Product
	if err := f.catalogue.Call(ctx, http.MethodGet, "/products", "", nil, &products); err != nil {
		return err
	}
	return f.render(w, "products", page{Title: "Everything that lifts", Products: products})
}

// lines are the items of a cart with their names and prices.
func (f *storefront) lines(ctx context.Context, customer string) ([]shop.Item, shop.Cents, error) {
	var items []shop.Item
	if err := f.cart.Call(ctx, http.MethodGet, "/carts/"+customer, "", nil, &items); err != nil {
		return nil, 0, err
	}
	if len(items) == 0 {
		return nil, 0, nil
	}
	var products []shop.Product
	if err := f.catalogue.Call(ctx, http.MethodGet, "/products", "", nil, &products); err != nil {
		return nil, 0, err
	}
	var total shop.Cents
	for i := range items {
		for _, p := range products {
			if p.ID == items[i].Product {
				items[i].Name, items[i].Price = p.Name, p.Price
				total += p.Price * shop.Cents(items[i].Quantity)
			}
		}
	}
	return items, total, nil
}

// showCart puts a fresh key into the order form, so that sending the form twice
// places one order.
func (f *storefront) showCart(ctx context.Context, w http.ResponseWriter, r *http.Request, customer string) error {
	items, total, err := f.lines(ctx, customer)
	if err != nil {
		return err
	}
	return f.render(w, "cart", page{Title: "Your cart", Items: items, Total: total, Key: randomID()})
}

func (f *storefront) changeCart(ctx context.Context, w http.ResponseWriter, r *http.Request, customer string) error {
	product := r.PostFormValue("product")
	var known shop.Product
	if err := f.catalogue.Call(ctx, http.MethodGet, "/products/"+product, "", nil, &known); err != nil {
		return err
	}
	item := shop.Item{Product: known.ID}
	if r.PostFormValue("remove") == "" {
		var items []shop.Item
		if err := f.cart.Call(ctx, http.MethodGet, "/carts/"+customer, "", nil, &items); err != nil {
			return err
		}
		item.Quantity = 1
		for _, i := range items {
			if i.Product == known.ID {
				item.Quantity = i.Quantity + 1
			}
		}
	}
	if err := f.cart.Call(ctx, http.MethodPut, "/carts/"+customer+"/items/"+known.ID, "", item, nil); err != nil {
		return err
	}
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
	return nil
}

func (f *storefront) placeOrder(ctx context.Context, w http.ResponseWriter, r *http.Request, customer string) error {
	key := r.PostFormValue("key")
	if key == "" {
		return &service.StatusError{Code: http.StatusBadRequest, Message: "the order form has no key: go back to the cart and try again"}
	}
	items, _, err := f.lines(ctx, customer)
	if err != nil {
		return err
	}
	var placed shop.Order
	if err := f.orders.Call(ctx, http.MethodPost, "/orders", key, shop.NewOrder{Customer: customer, Items: items}, &placed); err != nil {
		return err
	}
	if err := f.cart.Call(ctx, http.MethodDelete, "/carts/"+customer, "", nil, nil); err != nil {
		return fmt.Errorf("order %s is placed, but the cart could not be emptied: %w", placed.ID, err)
	}
	http.Redirect(w, r, "/orders/"+placed.ID, http.StatusSeeOther)
	return nil
}

func (f *storefront) showOrders(ctx context.Context, w http.ResponseWriter, r *http.Request, customer string) error {
	var list []shop.Order
	if err := f.orders.Call(ctx, http.MethodGet, "/orders?customer="+customer, "", nil, &list); err != nil {
		return err
	}
	return f.render(w, "orders", page{Title: "Your orders", Orders: list})
}

func (f *storefront) showOrder(ctx context.Context, w http.ResponseWriter, r *http.Request, customer string) error {
	var order shop.Order
	if err := f.orders.Call(ctx, http.MethodGet, "/orders/"+r.PathValue("id"), "", nil, &order); err != nil {
		return err
	}
	if order.Customer != customer {
		return &service.StatusError{Code: http.StatusNotFound, Message: "no such order"}
	}
	return f.render(w, "orders", page{Title: "Thank you", Orders: []shop.Order{order}, Thanks: true})
}
