package api

import (
	"math"
	"net/http"
	"sort"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"google.golang.org/protobuf/proto"
)

// lookback is how old the latest sample of a series may be to be told to others.
const lookback = 5 * time.Minute

// federate tells the latest samples of chosen series in an exposition format, so that another
// Prometheus can scrape them. Histograms that are no classic ones are left out.
func (a *API) federate(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	sets, err := a.selectors(r)
	if err != nil || len(sets) == 0 {
		http.Error(w, "match[] must choose series", http.StatusBadRequest)
		return
	}
	now := timestamp.FromTime(time.Now())
	querier, err := a.cfg.Storage.Querier(now-lookback.Milliseconds(), now)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer querier.Close()
	families, err := latest(a.choose(r, querier, &storage.SelectHints{Start: now - lookback.Milliseconds(), End: now}, sets))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	format := expfmt.Negotiate(r.Header)
	w.Header().Set("Content-Type", string(format))
	encoder := expfmt.NewEncoder(w, format)
	for _, f := range families {
		if encoder.Encode(f) != nil {
			return // the client is gone
		}
	}
}

// latest takes the last sample of each series, by name.
func latest(set storage.SeriesSet) ([]*dto.MetricFamily, error) {
	by := map[string]*dto.MetricFamily{}
	var it chunkenc.Iterator
	for set.Next() {
		series := set.At()
		it = series.Iterator(it)
		at, v := int64(math.MinInt64), 0.0
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			if kind == chunkenc.ValFloat {
				at, v = it.At()
			}
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
		if at == math.MinInt64 || value.IsStaleNaN(v) {
			continue
		}
		name, m := "", &dto.Metric{TimestampMs: proto.Int64(at), Untyped: &dto.Untyped{Value: proto.Float64(v)}}
		series.Labels().Range(func(l labels.Label) {
			if l.Name == labels.MetricName {
				name = l.Value
				return
			}
			m.Label = append(m.Label, &dto.LabelPair{Name: proto.String(l.Name), Value: proto.String(l.Value)})
		})
		if by[name] == nil {
			by[name] = &dto.MetricFamily{Name: proto.String(name), Type: dto.MetricType_UNTYPED.Enum()}
		}
		by[name].Metric = append(by[name].Metric, m)
	}
	families := make([]*dto.MetricFamily, 0, len(by))
	for _, f := range by {
		families = append(families, f)
	}
	sort.Slice(families, func(i, j int) bool { return families[i].GetName() < families[j].GetName() })
	return families, set.Err()
}
