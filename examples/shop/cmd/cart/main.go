// Command cart keeps what customers are about to buy, in Redis, one hash per
// customer.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/shop/internal/service"
	"example.com/shop/internal/shop"
)

const (
	cartLifetime = 7 * 24 * time.Hour
	maxQuantity  = 99
)

type carts struct {
	*service.Service
	redis *redis.Client
}

func main() { service.Main("cart", setup) }

func setup(_ context.Context, s *service.Service) error {
	c := &carts{Service: s, redis: redis.NewClient(&redis.Options{Addr: service.Env("REDIS_ADDR", "127.0.0.1:6379"), MaxRetries: 5})}
	s.OnStop(func() { c.redis.Close() })
	s.ReadyWhen(func(ctx context.Context) error { return c.redis.Ping(ctx).Err() })
	s.Mux.HandleFunc("GET /carts/{customer}", c.get)
	s.Mux.HandleFunc("DELETE /carts/{customer}", c.clear)
	s.Mux.HandleFunc("PUT /carts/{customer}/items/{product}", c.put)
	return nil
}

func key(r *http.Request) string { return "cart:" + r.PathValue("customer") }

func (c *carts) get(w http.ResponseWriter, r *http.Request) {
	quantities, err := c.redis.HGetAll(r.Context(), key(r)).Result()
	if err != nil {
		c.Fail(w, r, fmt.Errorf("read cart: %w", err))
		return
	}
	items := []shop.Item{}
	for product, text := range quantities {
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			items = append(items, shop.Item{Product: product, Quantity: n})
		}
	}
	sort.Slice(items, func(i, j int) bool { return items[i].Product < items[j].Product })
	service.WriteJSON(w, http.StatusOK, items)
}

// put sets the quantity of a product, so that repeating it changes nothing.
func (c *carts) put(w http.ResponseWriter, r *http.Request) {
	var item shop.Item
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&item); err != nil {
		http.Error(w, "the body must be {\"quantity\": N}: "+err.Error(), http.StatusBadRequest)
		return
	}
	if item.Quantity < 0 || item.Quantity > maxQuantity {
		http.Error(w, fmt.Sprintf("quantity must be between 0 and %d", maxQuantity), http.StatusBadRequest)
		return
	}
	pipe := c.redis.TxPipeline()
	if item.Quantity == 0 {
		pipe.HDel(r.Context(), key(r), r.PathValue("product"))
	} else {
		pipe.HSet(r.Context(), key(r), r.PathValue("product"), item.Quantity)
	}
	pipe.Expire(r.Context(), key(r), cartLifetime)
	if _, err := pipe.Exec(r.Context()); err != nil {
		c.Fail(w, r, fmt.Errorf("change cart: %w", err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *carts) clear(w http.ResponseWriter, r *http.Request) {
	if err := c.redis.Del(r.Context(), key(r)).Err(); err != nil {
		c.Fail(w, r, fmt.Errorf("clear cart: %w", err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
