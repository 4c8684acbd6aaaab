package services

// Live are the requests that are running now, so that one that loses what let
// it in can be ended.
type Live struct{}
