package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"example.com/shop/internal/service"
	"example.com/shop/internal/shop"
)

// backends are the services behind the storefront, as simple as they can be.
type backends struct {
	mu    sync.Mutex
	carts map[string]map[string]int
	keys  map[string]shop.Order
	fails int // requests to answer with 503 first
}

func (b *backends) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails > 0 {
		b.fails--
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	mug := shop.Product{ID: "mug", Name: "Mug", Price: 1290}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/products":
		service.WriteJSON(w, http.StatusOK, []shop.Product{mug})
	case parts[0] == "products" && parts[1] == "mug":
		service.WriteJSON(w, http.StatusOK, mug)
	case parts[0] == "carts" && r.Method == http.MethodGet:
		items := []shop.Item{}
		for product, n := range b.carts[parts[1]] {
			items = append(items, shop.Item{Product: product, Quantity: n})
		}
		service.WriteJSON(w, http.StatusOK, items)
	case parts[0] == "carts" && r.Method == http.MethodPut:
		var item shop.Item
		json.NewDecoder(r.Body).Decode(&item)
		b.carts[parts[1]] = map[string]int{parts[3]: item.Quantity}
	case parts[0] == "carts":
		delete(b.carts, parts[1])
	case r.URL.Path == "/orders" && r.Method == http.MethodPost:
		var wanted shop.NewOrder
		json.NewDecoder(r.Body).Decode(&wanted)
		key := r.Header.Get("Idempotency-Key")
		if _, ok := b.keys[key]; !ok {
			b.keys[key] = shop.Order{ID: "order-" + key[:6], Customer: wanted.Customer, Items: wanted.Items, Total: 2580}
		}
		service.WriteJSON(w, http.StatusOK, b.keys[key])
	case r.URL.Path == "/orders":
		list := []shop.Order{}
		for _, o := range b.keys {
			if o.Customer == r.URL.Query().Get("customer") {
				list = append(list, o)
			}
		}
		service.WriteJSON(w, http.StatusOK, list)
	case parts[0] == "orders":
		for _, o := range b.keys {
			if o.ID == parts[1] {
				service.WriteJSON(w, http.StatusOK, o)
				return
			}
		}
		http.NotFound(w, r)
	default:
		http.NotFound(w, r)
	}
}

type browser struct {
	*testing.T
	http *http.Client
	shop string
}

func (b browser) page(resp *http.Response, err error) string {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s: %s", resp.Request.URL, resp.Status, text)
	}
	return string(text)
}

func (b browser) get(path string) string { b.Helper(); return b.page(b.http.Get(b.shop + path)) }

func (b browser) post(path string, form url.Values) string {
	b.Helper()
	return b.page(b.http.PostForm(b.shop+path, form))
}

func open(t *testing.T) (browser, *backends) {
	behind := &backends{carts: map[string]map[string]int{}, keys: map[string]shop.Order{}}
	backend := httptest.NewServer(behind)
	t.Cleanup(backend.Close)
	for _, name := range []string{"CATALOGUE_URL", "CART_URL", "ORDERS_URL"} {
		t.Setenv(name, backend.URL)
	}
	s := &service.Service{Name: "storefront", Mux: http.NewServeMux(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := setup(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(s.Mux)
	t.Cleanup(front.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return browser{t, &http.Client{Jar: jar}, front.URL}, behind
}

func TestBuyingAMug(t *testing.T) {
	b, _ := open(t)
	if !strings.Contains(b.get("/"), "Mug") {
		t.Error("the products are not on the first page")
	}
	b.post("/cart", url.Values{"product": {"mug"}})
	cart := b.post("/cart", url.Values{"product": {"mug"}})
	if !strings.Contains(cart, "€ 25.80") {
		t.Errorf("two mugs cost € 25.80:\n%s", cart)
	}
	key := regexp.MustCompile(`name="key" value="([0-9a-f]+)"`).FindStringSubmatch(cart)
	if key == nil {
		t.Fatal("the cart has no order form")
	}
	thanks := b.post("/orders", url.Values{"key": {key[1]}})
	if !strings.Contains(thanks, "Thank you") {
		t.Errorf("no thanks:\n%s", thanks)
	}
	if !strings.Contains(b.get("/orders"), "order-"+key[1][:6]) || !strings.Contains(b.get("/cart"), "Nothing in it") {
		t.Error("the order is not in the history, or the cart was not emptied")
	}
}

func TestAPageWaitsForARestartingService(t *testing.T) {
	b, behind := open(t)
	behind.fails = 3
	if !strings.Contains(b.get("/"), "Mug") {
		t.Error("a service that came back in time was not asked again")
	}
}

func TestCustomersSeeOnlyTheirOwnOrders(t *testing.T) {
	b, behind := open(t)
	behind.keys["k"] = shop.Order{ID: "order-1", Customer: "somebody else"}
	resp, err := b.http.Get(b.shop + "/orders/order-1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("somebody else's order: status %d", resp.StatusCode)
	}
}

func TestTheSecondVersionIsVisiblyDifferent(t *testing.T) {
	b, _ := open(t)
	first := b.get("/")
	version = "2"
	t.Cleanup(func() { version = "1" })
	second := b.get("/")
	if strings.Contains(first, "Flash sale") || !strings.Contains(second, "Flash sale") || !strings.Contains(second, "version 2") {
		t.Error("the sale banner must be on version 2 only")
	}
}
