package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/engine/shim"
	"github.com/gantryhq/gantry/engine/shim/protocol"
	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// Door returns what it takes to enter the container later, also by a later
// gantry. It holds the environment, and with it secrets: keep it in memory.
func (p *Prepared) Door() []byte {
	enter := recipe.Recipe{
		Enter:      true,
		Namespaces: p.t.kinds,
		UIDMap:     p.recipe.UIDMap,
		GIDMap:     p.recipe.GIDMap,
		Process:    p.recipe.Process,
	}
	enter.Process.Terminal = false
	return enter.Encode()
}

// Exec is a further process of a container. Zero values are as in its first.
type Exec struct {
	Args       []string
	Env        []string // in addition
	Cwd        string
	User       *specs.User
	Terminal   bool
	Rows, Cols uint
}

// Exec starts a process in the container that door belongs to, with the same
// confinement as its first one. With a terminal, the process has its master
// side. Ending ctx kills it.
func (l *Launcher) Exec(ctx context.Context, id, group string, door []byte, e Exec, f shim.Files) (*shim.Process, error) {
	r, err := recipe.Decode(door)
	if err != nil {
		return nil, fmt.Errorf("enter the container: %w", err)
	}
	if len(e.Args) == 0 {
		return nil, errors.New("no command was given")
	}
	p := &r.Process
	p.Args = e.Args
	p.Env = append(p.Env, e.Env...)
	p.Cwd = cmp.Or(e.Cwd, p.Cwd)
	if !path.IsAbs(p.Cwd) {
		return nil, fmt.Errorf("working directory %q: an absolute path is needed", p.Cwd)
	}
	if u := e.User; u != nil {
		p.UID, p.GID, p.Groups = uint64(u.UID), uint64(u.GID), nil
		for _, g := range u.AdditionalGids {
			p.Groups = append(p.Groups, uint64(g))
		}
	}
	p.Terminal, p.Rows, p.Cols = e.Terminal, uint64(e.Rows), uint64(e.Cols)
	if err := l.checkShim(ctx); err != nil {
		return nil, err
	}
	file, err := write(r.Encode())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	launch := l.request(group, 0)
	launch.Terminal = e.Terminal
	return l.shim.Exec(ctx, id, protocol.Exec{Launch: launch}, f, l.files(l.program, file)...)
}
