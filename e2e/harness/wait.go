package harness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Until asks again, every 10 ms, until ask succeeds. On the context's end it fails with the last answer.
// It is for what tells nobody when it changes.
func Until(ctx context.Context, what string, ask func(context.Context) error) error {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	last := errors.New("never asked")
	for {
		if ctx.Err() == nil {
			err := ask(ctx)
			if err == nil {
				return nil
			}
			if ctx.Err() == nil || last == nil {
				last = err
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), last)
		}
	}
}
