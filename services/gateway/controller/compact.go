package controller

import "reflect"

// Objects that were decoded one by one hold thousands of copies of the same words
// ("Gateway", "Accepted", names of namespaces) and slices with room that nobody fills:
// half of what a route takes. Cached objects are never changed, so they may share both.

// maxShared bounds the words and scalars that are remembered. Most words are names that
// nobody else has: to remember all of them would take more than sharing saves.
const maxShared = 4096

// compactor shares what objects have in common. It is for one goroutine.
type compactor struct {
	words  map[string]string
	shared map[any]reflect.Value // by value: a pointer to it
}

// word returns the same text, if possible the same memory.
func (c *compactor) word(text string) string {
	if one, ok := c.words[text]; ok {
		return one
	}
	if c.words == nil || len(c.words) >= maxShared {
		c.words = map[string]string{}
	}
	c.words[text] = text
	return text
}

// compact changes an object, to which it has a pointer and nobody else has one.
func (c *compactor) compact(o any) {
	if v := reflect.ValueOf(o); v.Kind() == reflect.Pointer && !v.IsNil() {
		c.walk(v.Elem())
	}
}

func (c *compactor) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.Len() > 0 && v.CanSet() {
			v.SetString(c.word(v.String()))
		}
	case reflect.Pointer:
		if !v.IsNil() && v.CanSet() {
			c.pointer(v)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			c.walk(v.Field(i))
		}
	case reflect.Slice:
		if v.Len() == 0 || !v.CanSet() || scalar(v.Type().Elem().Kind()) && v.Type().Elem().Kind() != reflect.String {
			return
		}
		if v.Cap() > v.Len() {
			exact := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(exact, v)
			v.Set(exact)
		}
		for i := range v.Len() {
			c.walk(v.Index(i))
		}
	case reflect.Map:
		if k := v.Type(); k.Key().Kind() == reflect.String && k.Elem().Kind() == reflect.String {
			for iter := v.MapRange(); iter.Next(); {
				word := reflect.New(k.Elem()).Elem()
				word.SetString(c.word(iter.Value().String()))
				v.SetMapIndex(iter.Key(), word)
			}
		}
	}
}

// pointer lets pointers to equal scalars be one.
func (c *compactor) pointer(v reflect.Value) {
	if !scalar(v.Elem().Kind()) {
		c.walk(v.Elem())
		return
	}
	c.walk(v.Elem())
	key := v.Elem().Interface() // with its type
	if one, ok := c.shared[key]; ok {
		v.Set(one)
		return
	}
	if c.shared == nil || len(c.shared) >= maxShared {
		c.shared = map[any]reflect.Value{}
	}
	c.shared[key] = reflect.ValueOf(v.Interface())
}

func scalar(k reflect.Kind) bool {
	return k >= reflect.Bool && k <= reflect.Float64 && k != reflect.Uintptr || k == reflect.String
}
