package main

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"

	"example.com/shop/internal/shop"
)

//go:embed pages/*.html pages/*.css
var files embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"times": func(price shop.Cents, n int) shop.Cents { return price * shop.Cents(n) },
	// before is what a thing on sale cost yesterday.
	"before": func(price shop.Cents) shop.Cents { return price * 5 / 4 },
}).ParseFS(files, "pages/*.html"))

// page is what the templates show.
type page struct {
	Version, Host string
	Sale          bool
	Title         string

	Products []shop.Product
	Items    []shop.Item
	Total    shop.Cents
	Key      string
	Orders   []shop.Order
	Thanks   bool
}

// render writes nothing unless the whole page could be made.
func (f *storefront) render(w http.ResponseWriter, name string, p page) error {
	p.Version, p.Host, p.Sale = version, f.host, version != "1"
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, p); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(b.Bytes())
	return nil
}

func serveStyle(w http.ResponseWriter, _ *http.Request) {
	css, err := files.ReadFile("pages/style.css")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/css")
	w.Write(css)
}
