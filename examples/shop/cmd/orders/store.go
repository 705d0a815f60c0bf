package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/shop/internal/shop"
)

const (
	schema = `CREATE TABLE IF NOT EXISTS orders (
		id       text PRIMARY KEY,
		key      text NOT NULL UNIQUE,
		customer text NOT NULL,
		items    jsonb NOT NULL,
		total    bigint NOT NULL,
		payment  text NOT NULL,
		placed   timestamptz NOT NULL DEFAULT now()
	);
	CREATE INDEX IF NOT EXISTS orders_of_customer ON orders (customer, placed DESC);`
	columns = "id, customer, items, total, payment, placed"

	retryPause   = 200 * time.Millisecond
	historyLimit = 50
)

// store keeps orders in PostgreSQL and waits out its restarts.
type store struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	created atomic.Bool // the table exists
}

// openStore does not wait for the database: until it answers, ready says no.
func openStore(ctx context.Context, url, password string, log *slog.Logger) (*store, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read DATABASE_URL: %w", err)
	}
	if password != "" {
		config.ConnConfig.Password = password
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return &store{pool: pool, log: log}, nil
}

func (s *store) close() { s.pool.Close() }

// ready also creates the table, on the first success after a start.
func (s *store) ready(ctx context.Context) error {
	statement := schema
	if s.created.Load() {
		statement = "SELECT 1"
	}
	if _, err := s.pool.Exec(ctx, statement); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.created.Store(true)
	return nil
}

// retry repeats do while the database is away and the context lasts.
func (s *store) retry(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || !transient(err) {
			return err
		}
		s.log.Warn("database is away, trying again", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
	}
}

// transient tells a database that is starting, stopping or unreachable from one
// that refuses the statement.
func transient(err error) bool {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		const connectionExceptions, operatorIntervention, undefinedTable = "08", "57P", "42P01"
		return refused.Code[:2] == connectionExceptions || refused.Code[:3] == operatorIntervention || refused.Code == undefinedTable
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// insert stores the order, or returns the one that the same key stored before.
func (s *store) insert(ctx context.Context, key string, order *shop.Order) (*shop.Order, error) {
	items, err := json.Marshal(order.Items)
	if err != nil {
		return nil, fmt.Errorf("store order: %w", err)
	}
	var placed *shop.Order
	err = s.retry(ctx, func() error {
		_, err := s.pool.Exec(ctx, "INSERT INTO orders (id, key, customer, items, total, payment) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key) DO NOTHING",
			newID(), key, order.Customer, items, int64(order.Total), order.Payment)
		if err != nil {
			return err
		}
		placed, err = s.one(ctx, "key", key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store order: %w", err)
	}
	return placed, nil
}

func (s *store) byKey(ctx context.Context, key string) (*shop.Order, error) {
	return s.find(ctx, "key", key)
}

func (s *store) byID(ctx context.Context, id string) (*shop.Order, error) {
	return s.find(ctx, "id", id)
}

// find returns nil when there is no such order.
func (s *store) find(ctx context.Context, column, value string) (order *shop.Order, err error) {
	err = s.retry(ctx, func() (err error) {
		order, err = s.one(ctx, column, value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	return order, nil
}

func (s *store) one(ctx context.Context, column, value string) (*shop.Order, error) {
	order, err := scan(s.pool.QueryRow(ctx, "SELECT "+columns+" FROM orders WHERE "+column+" = $1", value))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return order, err
}

func (s *store) ofCustomer(ctx context.Context, customer string) ([]*shop.Order, error) {
	list := []*shop.Order{}
	err := s.retry(ctx, func() error {
		list = list[:0]
		rows, err := s.pool.Query(ctx, "SELECT "+columns+" FROM orders WHERE customer = $1 ORDER BY placed DESC LIMIT $2", customer, historyLimit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			order, err := scan(rows)
			if err != nil {
				return err
			}
			list = append(list, order)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return list, nil
}

func scan(row pgx.Row) (*shop.Order, error) {
	var o shop.Order
	var items []byte
	var total int64
	if err := row.Scan(&o.ID, &o.Customer, &items, &total, &o.Payment, &o.Placed); err != nil {
		return nil, err
	}
	o.Total = shop.Cents(total)
	return &o, json.Unmarshal(items, &o.Items)
}

func newID() string {
	var b [6]byte
	rand.Read(b[:])
	return "order-" + hex.EncodeToString(b[:])
}
