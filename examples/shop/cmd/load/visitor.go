package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
)

const requestTime = 15 * time.Second

// visitor is one customer with a browser.
type visitor struct {
	host     string
	customer string // cookie, once the shop gave one
	http     *http.Client
	done     func(result) // called after each request, or nil
}

// result is one request as the visitor saw it.
type result struct {
	took    time.Duration
	version string // of the storefront that answered
	err     error
}

func newVisitor(to, host string) *visitor {
	return &visitor{host: host, http: &http.Client{
		Timeout:       requestTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 4,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, to)
			},
		},
	}}
}

// do sends one request and returns the page and where it redirects to. Anything
// but a page or a redirect is an error.
func (v *visitor) do(ctx context.Context, method, target string, form url.Values) (body, location string, err error) {
	start := time.Now()
	version := ""
	defer func() {
		if v.done != nil {
			v.done(result{took: time.Since(start), version: version, err: err})
		}
	}()
	var content io.Reader
	if form != nil {
		content = strings.NewReader(form.Encode())
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+v.host+target, content)
	if err != nil {
		return "", "", err
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if v.customer != "" {
		request.AddCookie(&http.Cookie{Name: "customer", Value: v.customer})
	}
	resp, err := v.http.Do(request)
	if err != nil {
		return "", "", fmt.Errorf("%s %s: %w", method, target, err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", fmt.Errorf("%s %s: %w", method, target, err)
	}
	version = resp.Header.Get("X-Shop-Version")
	for _, c := range resp.Cookies() {
		if c.Name == "customer" {
			v.customer = c.Value
		}
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusSeeOther {
		text, _, _ := strings.Cut(strings.TrimSpace(string(page)), "\n")
		return "", "", fmt.Errorf("%s %s: %s: %s", method, target, resp.Status, text)
	}
	return string(page), resp.Header.Get("Location"), nil
}

func (v *visitor) browse(ctx context.Context) error {
	_, _, err := v.do(ctx, http.MethodGet, "/", nil)
	return err
}

var orderKey = regexp.MustCompile(`name="key" value="([0-9a-f]+)"`)

// buy puts a product into the cart, orders it and returns the order's number.
func (v *visitor) buy(ctx context.Context, product string) (string, error) {
	if _, _, err := v.do(ctx, http.MethodPost, "/cart", url.Values{"product": {product}}); err != nil {
		return "", err
	}
	cart, _, err := v.do(ctx, http.MethodGet, "/cart", nil)
	if err != nil {
		return "", err
	}
	key := orderKey.FindStringSubmatch(cart)
	if key == nil {
		return "", errors.New("the cart has no order form: what was put in is gone")
	}
	_, location, err := v.do(ctx, http.MethodPost, "/orders", url.Values{"key": {key[1]}})
	if err != nil {
		return "", err
	}
	return path.Base(location), nil
}

// find looks an order up in the customer's history.
func (v *visitor) find(ctx context.Context, order, customer string) error {
	v.customer = customer
	page, _, err := v.do(ctx, http.MethodGet, "/orders", nil)
	if err != nil {
		return err
	}
	if !strings.Contains(page, order) {
		return fmt.Errorf("order %s is not in the history of customer %s", order, customer)
	}
	fmt.Println(order, "is there")
	return nil
}
