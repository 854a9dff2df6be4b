package api

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/pkg/auth"
)

// Authenticate lets a call's handler see whose token or certificate came with it, and ends the call when that does
// not hold any more. It stands behind what puts the caller into the context (auth.WithCaller).
func (s *Service) Authenticate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, done, err := s.authenticated(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	res, err := handler(ctx, req)
	return res, ended(ctx, err)
}

// AuthenticateStream is Authenticate for calls that stream.
func (s *Service) AuthenticateStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, done, err := s.authenticated(stream.Context())
	if err != nil {
		return err
	}
	defer done()
	return ended(ctx, handler(srv, &withContext{stream, ctx}))
}

type withContext struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *withContext) Context() context.Context { return s.ctx }

func (s *Service) authenticated(ctx context.Context) (_ context.Context, done func(), err error) {
	c, ok := auth.CallerFrom(ctx)
	if !ok {
		return ctx, func() {}, nil
	}
	c, credential, err := s.Users.AuthenticateUser(c)
	if err != nil {
		return nil, nil, err
	}
	ctx = auth.WithCaller(ctx, c)
	if credential.Endless() {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	release := s.Live.Hold(credential, func(reason error) { cancel(&auth.RefusedError{Reason: reason}) })
	return ctx, func() {
		release()
		cancel(nil)
	}, nil
}

// ended gives a call that failed because its credential ended that reason.
func ended(ctx context.Context, err error) error {
	if refused := (*auth.RefusedError)(nil); err != nil && errors.As(context.Cause(ctx), &refused) {
		return refused
	}
	return err
}
