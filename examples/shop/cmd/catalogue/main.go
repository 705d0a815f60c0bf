// Command catalogue serves the products of the shop.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"

	"example.com/shop/internal/service"
	"example.com/shop/internal/shop"
)

//go:embed products.json
var list []byte

func main() { service.Main("catalogue", setup) }

func setup(_ context.Context, s *service.Service) error {
	var products []shop.Product
	if err := json.Unmarshal(list, &products); err != nil {
		return fmt.Errorf("read the list of products: %w", err)
	}
	byID := map[string]shop.Product{}
	for _, p := range products {
		byID[p.ID] = p
	}
	s.Mux.HandleFunc("GET /products", func(w http.ResponseWriter, _ *http.Request) {
		service.WriteJSON(w, http.StatusOK, products)
	})
	s.Mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		product, ok := byID[r.PathValue("id")]
		if !ok {
			http.Error(w, fmt.Sprintf("no product %q", r.PathValue("id")), http.StatusNotFound)
			return
		}
		service.WriteJSON(w, http.StatusOK, product)
	})
	return nil
}
