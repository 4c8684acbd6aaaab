package main

import (
	"context"
	"errors"
)

func openWarren(ctx context.Context) (*contender, error) { return nil, errors.New("not there") }
