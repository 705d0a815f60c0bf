package node

import "time"

// crew runs operations on goroutines that it keeps for a while: the stack of a new
// one has to grow several times on the way through a system call or a request, which
// in a burst of pods takes more time than some of the operations. The zero value
// keeps none for the next operation.
type crew struct {
	work chan func() // unbuffered: taken only by one who has nothing to do
	done <-chan struct{}
}

// crewIdle is how long one who has nothing to do is kept.
const crewIdle = 2 * time.Second

// newCrew keeps nobody longer than until done is closed.
func newCrew(done <-chan struct{}) crew { return crew{make(chan func()), done} }

// do runs f on a goroutine of its own and does not wait for it.
func (c crew) do(f func()) {
	select {
	case c.work <- f:
	default:
		go c.serve(f)
	}
}

func (c crew) serve(f func()) {
	idle := time.NewTimer(crewIdle)
	defer idle.Stop()
	for {
		f()
		idle.Reset(crewIdle)
		select {
		case f = <-c.work:
		case <-idle.C:
			return
		case <-c.done:
			return
		}
	}
}
