// Command orders places orders: prices from the catalogue, money through the
// payment service, the result in PostgreSQL. An order is placed once per
// idempotency key, however often the request is repeated and whatever dies
// in between.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"example.com/shop/internal/service"
	"example.com/shop/internal/shop"
)

// requestTime bounds one request, waiting for a restarting database included.
const requestTime = 12 * time.Second

type orders struct {
	*service.Service
	store     *store
	catalogue *service.Client
	payment   *service.Client
}

func main() { service.Main("orders", setup) }

func setup(ctx context.Context, s *service.Service) error {
	password, err := service.Secret("DATABASE_PASSWORD")
	if err != nil {
		return err
	}
	st, err := openStore(ctx, service.Env("DATABASE_URL", "postgres://shop@127.0.0.1:5432/shop"), password, s.Log)
	if err != nil {
		return err
	}
	o := &orders{
		Service: s, store: st,
		catalogue: service.NewClient(service.Env("CATALOGUE_URL", "http://catalogue:8080")),
		payment:   service.NewClient(service.Env("PAYMENT_URL", "http://payment:8080")),
	}
	s.OnStop(st.close)
	s.ReadyWhen(st.ready)
	s.Mux.HandleFunc("POST /orders", o.place)
	s.Mux.HandleFunc("GET /orders", o.list)
	s.Mux.HandleFunc("GET /orders/{id}", o.get)
	return nil
}

func (o *orders) place(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		http.Error(w, "the header Idempotency-Key is missing", http.StatusBadRequest)
		return
	}
	var wanted shop.NewOrder
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&wanted); err != nil {
		http.Error(w, "the body is not an order: "+err.Error(), http.StatusBadRequest)
		return
	}
	if wanted.Customer == "" || len(wanted.Items) == 0 {
		http.Error(w, "an order needs a customer and at least one item", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	order, err := o.placeOnce(ctx, key, wanted)
	if err != nil {
		o.Fail(w, r, err)
		return
	}
	service.WriteJSON(w, http.StatusOK, order)
}

// placeOnce pays before it stores. When it dies in between, the repeated request
// pays with the same key, which the payment service does not charge twice, and
// stores then.
func (o *orders) placeOnce(ctx context.Context, key string, wanted shop.NewOrder) (*shop.Order, error) {
	if placed, err := o.store.byKey(ctx, key); err != nil || placed != nil {
		return placed, err
	}
	order := &shop.Order{Customer: wanted.Customer}
	for _, item := range wanted.Items {
		if item.Quantity < 1 {
			return nil, &service.StatusError{Code: http.StatusBadRequest, Message: fmt.Sprintf("quantity of %q must be at least 1", item.Product)}
		}
		var product shop.Product
		if err := o.catalogue.Call(ctx, http.MethodGet, "/products/"+item.Product, "", nil, &product); err != nil {
			return nil, err
		}
		order.Items = append(order.Items, shop.Item{Product: product.ID, Name: product.Name, Price: product.Price, Quantity: item.Quantity})
		order.Total += product.Price * shop.Cents(item.Quantity)
	}
	var receipt shop.Receipt
	if err := o.payment.Call(ctx, http.MethodPost, "/payments", key, shop.Payment{Customer: order.Customer, Amount: order.Total}, &receipt); err != nil {
		return nil, err
	}
	order.Payment = receipt.ID
	return o.store.insert(ctx, key, order)
}

func (o *orders) get(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	order, err := o.store.byID(ctx, r.PathValue("id"))
	switch {
	case err != nil:
		o.Fail(w, r, err)
	case order == nil:
		http.Error(w, fmt.Sprintf("no order %q", r.PathValue("id")), http.StatusNotFound)
	default:
		service.WriteJSON(w, http.StatusOK, order)
	}
}

func (o *orders) list(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	list, err := o.store.ofCustomer(ctx, r.URL.Query().Get("customer"))
	if err != nil {
		o.Fail(w, r, err)
		return
	}
	service.WriteJSON(w, http.StatusOK, list)
}
