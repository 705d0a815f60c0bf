package recipe

import "errors"

// magic begins every recipe.
const magic = "gantry-recipe"

// ErrCorrupt means that what was read is no recipe of this version.
var ErrCorrupt = errors.New("the recipe is not one of this version of gantry")

// codec walks over the fields of a recipe, in one direction or the other: one
// list of the fields serves both. Numbers are unsigned LEB128, text and lists
// have their length in front.
type codec struct {
	data   []byte
	encode bool
	failed bool
}

// Encode returns the recipe's encoding.
func (r *Recipe) Encode() []byte {
	c := &codec{encode: true, data: make([]byte, 0, 8<<10)}
	c.recipe(r)
	return c.data
}

// Decode reads an encoded recipe.
func Decode(data []byte) (*Recipe, error) {
	c, r := &codec{data: data}, &Recipe{}
	c.recipe(r)
	if c.failed || len(c.data) > 0 {
		return nil, ErrCorrupt
	}
	return r, nil
}

func (c *codec) recipe(r *Recipe) {
	head, version := magic, uint64(Version)
	c.text(&head)
	c.number(&version)
	if head != magic || version != Version {
		c.failed = true
		return
	}
	c.flag(&r.Enter)
	c.number(&r.Namespaces)
	list(c, &r.Joins, func(c *codec, j *Join) { c.number(&j.Kind); c.text(&j.Path); c.number(&j.File) })
	c.number(&r.SecondStage)
	list(c, &r.UIDMap, (*codec).idMap)
	list(c, &r.GIDMap, (*codec).idMap)
	c.number(&r.Files)
	c.flag(&r.CgroupNamespace)
	c.text(&r.Root)
	c.number(&r.RootFile)
	c.number(&r.RootPropagation)
	c.flag(&r.ReadonlyRoot)
	c.text(&r.Hostname)
	c.text(&r.Domainname)
	list(c, &r.Mounts, (*codec).mount)
	list(c, &r.Devices, (*codec).device)
	c.texts(&r.MaskedPaths)
	c.texts(&r.ReadonlyPaths)
	list(c, &r.Links, (*codec).setting)
	list(c, &r.Sysctls, (*codec).setting)
	c.flag(&r.Hold)
	c.process(&r.Process)
}

func (c *codec) setting(s *Setting) {
	c.text(&s.Name)
	c.text(&s.Value)
}

func (c *codec) idMap(m *IDMap) {
	c.number(&m.Inside)
	c.number(&m.Outside)
	c.number(&m.Length)
}

func (c *codec) mount(m *Mount) {
	c.text(&m.Target)
	c.text(&m.FS)
	c.text(&m.Source)
	c.number(&m.File)
	c.texts(&m.Options)
	c.number(&m.Set)
	c.number(&m.Clear)
	c.number(&m.RSet)
	c.number(&m.RClear)
	c.number(&m.Propagation)
	c.flag(&m.NoLinks)
	c.flag(&m.Remount)
}

func (c *codec) device(d *Device) {
	c.text(&d.Path)
	c.number(&d.File)
	c.number(&d.Mode)
	c.number(&d.Major)
	c.number(&d.Minor)
	c.number(&d.UID)
	c.number(&d.GID)
}

func (c *codec) process(p *Process) {
	c.texts(&p.Args)
	c.texts(&p.Env)
	c.text(&p.Cwd)
	c.number(&p.UID)
	c.number(&p.GID)
	list(c, &p.Groups, (*codec).number)
	c.flag(&p.SetGroups)
	c.signed(&p.Umask)
	list(c, &p.Rlimits, func(c *codec, l *Rlimit) { c.number(&l.Resource); c.number(&l.Soft); c.number(&l.Hard) })
	for _, set := range []*uint64{&p.Caps.Bounding, &p.Caps.Permitted, &p.Caps.Effective, &p.Caps.Inheritable, &p.Caps.Ambient} {
		c.number(set)
	}
	c.flag(&p.NoNewPrivs)
	filter := string(p.Seccomp)
	c.text(&filter)
	p.Seccomp = []byte(filter)
	c.number(&p.SeccompFlags)
	for _, s := range []*string{&p.OOMScoreAdj, &p.AppArmor, &p.SELinux, &p.Keyring} {
		c.text(s)
	}
	c.flag(&p.Terminal)
	c.number(&p.Rows)
	c.number(&p.Cols)
}

func (c *codec) number(n *uint64) {
	if c.encode {
		v := *n
		for v >= 0x80 {
			c.data = append(c.data, byte(v)|0x80)
			v >>= 7
		}
		c.data = append(c.data, byte(v))
		return
	}
	*n = 0
	for i, b := range c.data {
		if i > 9 {
			break
		}
		*n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			c.data = c.data[i+1:]
			return
		}
	}
	c.failed, c.data = true, nil
}

// signed keeps small negative numbers small.
func (c *codec) signed(n *int64) {
	u := uint64(*n)<<1 ^ uint64(*n>>63)
	c.number(&u)
	*n = int64(u>>1) ^ -int64(u&1)
}

func (c *codec) flag(b *bool) {
	var n uint64
	if *b {
		n = 1
	}
	c.number(&n)
	*b = n != 0
}

func (c *codec) text(s *string) {
	n := uint64(len(*s))
	c.number(&n)
	if c.encode {
		c.data = append(c.data, *s...)
		return
	}
	if n > uint64(len(c.data)) {
		c.failed, c.data = true, nil
		n = 0
	}
	*s, c.data = string(c.data[:n]), c.data[n:]
}

func (c *codec) texts(l *[]string) { list(c, l, (*codec).text) }

func list[T any](c *codec, l *[]T, each func(*codec, *T)) {
	n := uint64(len(*l))
	c.number(&n)
	if !c.encode {
		if n > uint64(len(c.data)) { // every element takes a byte at least
			c.failed, c.data = true, nil
			return
		}
		*l = nil
		if n > 0 {
			*l = make([]T, n)
		}
	}
	for i := range *l {
		each(c, &(*l)[i])
	}
}
