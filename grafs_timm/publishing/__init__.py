"""From finished campaigns to zoo entries, cards and pages, and back."""
