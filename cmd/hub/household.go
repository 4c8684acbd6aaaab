package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) householdCmd() *cobra.Command {
	return group("household", "people", "Households: add, list, label, member, rm",
		`A household is people who live together and what belongs to them. Nobody sees or
changes another's.

With a label it is tied to a household of the policy: a machine that the policy
puts elsewhere never acts in this one, whoever sits at it.

HOUSEHOLD is a name, a label or an id.`,
		a.householdAdd(), a.householdList(), a.householdLabel(), a.householdMember(), a.householdRm())
}

func (a *app) householdAdd() *cobra.Command {
	var spec control.HouseholdSpec
	cmd := &cobra.Command{Use: "add NAME", Short: "Add a household", Args: cobra.ExactArgs(1),
		Example: "  hub household add \"Ann and Bob\" --label home",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			var h control.HouseholdInfo
			if err := a.call(cmd, "household/add", spec, &h); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is household %s.\n", h.Name, h.ID)
			return nil
		}}
	cmd.Flags().StringVar(&spec.Label, "label", "", "what the policy calls it, as in home for household:home")
	return cmd
}

func (a *app) householdList() *cobra.Command {
	return table(a, "household/list", "List the households and who lives there", "There is none yet. Add one: hub household add NAME",
		[]string{"NAME", "ID", "LABEL", "MEMBERS", "NODES", "SINCE"},
		func(h control.HouseholdInfo) []string {
			var members []string
			for _, m := range h.Members {
				members = append(members, m.Email+" ("+m.Role.String()+")")
			}
			return []string{h.Name, string(h.ID), h.Label, strings.Join(members, ", "), fmt.Sprint(h.Nodes), h.Created.Local().Format(time.DateOnly)}
		})
}

func (a *app) householdLabel() *cobra.Command {
	return &cobra.Command{Use: "label HOUSEHOLD [LABEL]", Short: "Tie a household to one of the policy, or to none", Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: completer(a, "household/list", householdWord),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := control.HouseholdSpec{Household: args[0]}
			if len(args) > 1 {
				spec.Label = args[1]
			}
			if err := a.call(cmd, "household/label", spec, nil); err != nil {
				return err
			}
			if spec.Label == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has no label any more; any machine may act in it.\n", args[0])
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is household:%s of the policy.\n", args[0], spec.Label)
			return nil
		}}
}

func (a *app) householdMember() *cobra.Command {
	var spec control.MemberSpec
	cmd := &cobra.Command{Use: "member HOUSEHOLD WHO [--role ROLE]", Short: "Seat a person in a household, or unseat them", Args: cobra.ExactArgs(2),
		Long:    "Seats a person in a household with a role: member, power_user or admin; or, with\n--role none, unseats them. A change bites at once, on running answers too.",
		Example: "  hub household member home ann@example.org --role admin",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return words(a, cmd, "household/list", householdWord)
			}
			return words(a, cmd, "user/list", userWord)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Household, spec.User = args[0], args[1]
			if err := a.call(cmd, "household/member", spec, nil); err != nil {
				return err
			}
			if spec.Role == "none" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s no longer lives in %s.\n", args[1], args[0])
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s in %s.\n", args[1], spec.Role, args[0])
			return nil
		}}
	cmd.Flags().StringVar(&spec.Role, "role", "member", "member, power_user or admin; none unseats them")
	return cmd
}

func (a *app) householdRm() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "rm HOUSEHOLD", Short: "Remove a household with everything that belongs to it", Args: cobra.ExactArgs(1),
		Long:              "Removes a household: its nodes, settings, webhooks and records. Its people stay.",
		ValidArgsFunction: completer(a, "household/list", householdWord),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sure(yes, "The household "+args[0]+" goes with its nodes and data."); err != nil {
				return err
			}
			if err := a.call(cmd, "household/rm", control.HouseholdSpec{Household: args[0]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is removed.\n", args[0])
			return nil
		}}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
