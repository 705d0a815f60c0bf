package recipe

import (
	"reflect"
	"testing"
)

// fill sets every field to something that is not its zero value.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(string(rune('a'+*n%26)) + "\x00é")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint64:
		v.SetUint(1<<63 + uint64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n % 256))
	}
}

func TestEveryFieldArrives(t *testing.T) {
	sent, n := &Recipe{}, 0
	fill(reflect.ValueOf(sent).Elem(), &n)
	got, err := Decode(sent.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(sent, got) {
		t.Errorf("sent %+v\ngot  %+v", sent, got)
	}
}

func TestTruncatedRecipesAreRefused(t *testing.T) {
	r, n := &Recipe{}, 0
	fill(reflect.ValueOf(r).Elem(), &n)
	whole := r.Encode()
	for i := range whole {
		if _, err := Decode(whole[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes were taken for a recipe", i, len(whole))
		}
	}
	if _, err := Decode(append(whole, 0)); err == nil {
		t.Error("a recipe with something behind it was accepted")
	}
}
