package api

import (
	"context"

	"github.com/meridian-mesh/meridian/pkg/auth"
)

// seats bound how many calls of a kind last at a time. A quarter of them is for callers who may write: what anyone may
// read, anyone who reaches the port could sit at until there is no seat left.
type seats struct{ all, anyone chan struct{} }

func newSeats(n int) seats { return seats{make(chan struct{}, n), make(chan struct{}, n-n/4)} }

// taken is how many last now.
func (s seats) taken() int { return len(s.all) }

// seat takes one for a caller, who gives it back by release; false: there is none.
func (s *Service) seat(ctx context.Context, of seats) (release func(), ok bool) {
	from := []chan struct{}{of.all}
	if c, _ := auth.CallerFrom(ctx); !s.Policy.MayWrite(c) {
		from = append(from, of.anyone)
	}
	for i, c := range from {
		select {
		case c <- struct{}{}:
		default:
			leave(from[:i])
			return nil, false
		}
	}
	return func() { leave(from) }, true
}

func leave(seats []chan struct{}) {
	for _, c := range seats {
		<-c
	}
}
