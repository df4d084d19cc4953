"""What users take away: a run, or any file of gaussians, as files of other programs."""
