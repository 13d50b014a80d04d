"""Why a picture and a text match: the share of each part of the picture and of each word."""
