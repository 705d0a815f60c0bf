// Command payment stands in for a payment provider: it approves every amount up
// to a limit, once per idempotency key. It moves no money.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"

	"example.com/shop/internal/service"
	"example.com/shop/internal/shop"
)

const limit shop.Cents = 1_000_000

func main() { service.Main("payment", setup) }

func setup(_ context.Context, s *service.Service) error {
	s.Mux.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		if key == "" {
			http.Error(w, "the header Idempotency-Key is missing", http.StatusBadRequest)
			return
		}
		var p shop.Payment
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<12)).Decode(&p); err != nil {
			http.Error(w, "the body is not a payment: "+err.Error(), http.StatusBadRequest)
			return
		}
		if p.Amount <= 0 || p.Amount > limit {
			http.Error(w, "declined: the amount must be above 0 and at most "+limit.String(), http.StatusPaymentRequired)
			return
		}
		// The receipt follows from the key: the same request, from whichever
		// replica, gets the same receipt.
		sum := sha256.Sum256([]byte(key))
		service.WriteJSON(w, http.StatusOK, shop.Receipt{ID: "pay-" + hex.EncodeToString(sum[:8]), Amount: p.Amount})
	})
	return nil
}
