// Command load behaves like customers of the shop.
//
//	load run   -rate 200 -duration 30s   browse and buy, count failures and latencies
//	load order                           place one order and print its number and customer
//	load find  ORDER CUSTOMER            show that an order is there
//
// All send their requests to one address (-to) with the shop's host name (-host),
// so that no name has to resolve.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to do: run, order or find")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	to := flags.String("to", "127.0.0.1:8080", "address of the gateway")
	host := flags.String("host", "shop.localhost", "host name of the shop")
	rate := flags.Int("rate", 100, "requests per second")
	duration := flags.Duration("duration", 10*time.Second, "how long")
	workers := flags.Int("workers", 64, "customers at a time")
	asJSON := flags.Bool("json", false, "print the report as JSON")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	shop := newVisitor(*to, *host)
	switch args[0] {
	case "order":
		order, err := shop.buy(ctx, "container-mug")
		if err != nil {
			return err
		}
		fmt.Println(order, shop.customer)
	case "find":
		if flags.NArg() != 2 {
			return fmt.Errorf("find needs ORDER and CUSTOMER")
		}
		return shop.find(ctx, flags.Arg(0), flags.Arg(1))
	case "run":
		if *rate < 1 || *rate > 20000 || *duration <= 0 || *duration > time.Hour || *workers < 1 || *workers > 1000 {
			return fmt.Errorf("rate must be 1 to 20000, duration up to 1h, workers 1 to 1000")
		}
		report := run(ctx, *to, *host, *rate, *duration, *workers)
		if *asJSON {
			return json.NewEncoder(os.Stdout).Encode(report)
		}
		report.print(os.Stdout)
	default:
		return fmt.Errorf("%q is none of run, order, find", args[0])
	}
	return nil
}
